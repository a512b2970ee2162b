"""Users, how their passwords are checked, and where both are kept."""
