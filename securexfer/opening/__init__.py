"""What is done with a file once it is stored, where a server is told to do anything: a script is run in a sandbox."""
