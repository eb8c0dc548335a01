"""A small network on scikit-learn's digits without a single gradient: `python examples/digits.py`, 15 s, 94 %."""

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn
from torch.nn import functional as F

from zofo.api.optimizer import ZerothOrder


def main(steps: int = 2500) -> float:
    pixels, labels = load_digits(return_X_y=True)
    data = torch.tensor(pixels / 16).float(), torch.tensor(labels)
    x, x_test, y, y_test = train_test_split(*data, test_size=0.25, random_state=0)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    opt = ZerothOrder(model, lr=3e-2, estimator={"name": "spsa", "q": 4})
    for step in range(1, steps + 1):
        loss = opt.step(lambda: F.cross_entropy(model(x), y))
        if step % 500 == 0:
            print(f"step {step}  loss {loss:.3f}")
    accuracy = float((model(x_test).argmax(1) == y_test).float().mean())
    print(f"test accuracy {accuracy:.3f}")
    return accuracy


if __name__ == "__main__":
    main()
