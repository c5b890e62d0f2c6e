"""The caller's side: the command line, requests and uploads as library functions, the embedded stack."""
