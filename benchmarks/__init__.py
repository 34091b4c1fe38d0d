"""What ds01-kernels costs, measured beside what else there is. Not part of the installed package."""
