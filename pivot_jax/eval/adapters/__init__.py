"""Models of this project in the form that other evaluation toolkits take, in one process with them."""
