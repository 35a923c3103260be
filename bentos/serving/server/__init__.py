"""The model server: from bytes on a socket to the model and back, in one process or several behind one socket."""
