"""Running generated kernels: built from their text, called through torch's operators, differentiated by autograd."""
