"""The kinds of input that are spoilt: each module has `COUNT`, how many cases the suite takes, and `make`."""
