"""What touches a socket."""
