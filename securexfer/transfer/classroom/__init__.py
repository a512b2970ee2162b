"""Protocol 1, the classroom framing: one side of a session, whoever connected."""
