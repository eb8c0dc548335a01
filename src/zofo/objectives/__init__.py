"""What is minimised: the file lm.py is the objective `lm`; `_loss` evaluates one on batches."""
