"""What touches received files."""
