"""Many owners of data: federated zeroth-order training, whose messages are a few bytes whatever the model.

The server holds a journal and no model, and imports no torch. A client holds the model and its rows, and answers with
coefficients. Flower carries the messages (`flower.py` alone knows it).
"""
