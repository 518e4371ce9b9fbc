"""Train a model of your own in an Atoll swarm: an ordinary PyTorch loop and five added lines.

First node:       python own_training_loop.py --data-dir a --create spirals
Its ticket:       atoll ticket --data-dir a
Another machine:  python own_training_loop.py --data-dir b --ticket atoll1...
Later starts:     python own_training_loop.py --data-dir b

The task: which of two interleaved spirals is a point on? Each node draws its own points.
"""

import argparse
import math
import sys

import torch
from torch import Tensor, nn

import atoll  # added


def spirals(n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Points fp32 [n, 2] and their spiral int64 [n]."""
    label = torch.randint(2, (n,), generator=generator)
    turn = torch.rand(n, generator=generator) * 3 * math.pi + 0.5
    angle = turn + math.pi * label
    noise = torch.randn(n, 2, generator=generator) * 0.1
    return torch.stack((turn * angle.cos(), turn * angle.sin()), dim=1) / 3 + noise, label


def build_model() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 2))


def validate(model: nn.Module) -> float:
    """Loss on fixed points that nobody trains on."""
    points, labels = spirals(2000, torch.Generator().manual_seed(0))
    with torch.no_grad():
        return float(nn.functional.cross_entropy(model(points), labels))


def train(args: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    model = build_model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    generator = torch.Generator()
    generator.seed()

    if args.create:
        atoll.create(args.create, model, data_dir=args.home, inner_steps=100)  # added
    with atoll.join(args.ticket, model, optimizer, data_dir=args.home, validate=validate) as swarm:  # added
        for _ in range(args.steps):
            points, labels = spirals(64, generator)
            loss = nn.functional.cross_entropy(model(points), labels)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            swarm.step(loss, tokens=len(points))  # added
        print(f"trained {args.steps} steps; the swarm is at version {swarm.version}")  # added
    print(f"validation loss of the local model: {validate(model):.4f}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data-dir", dest="home", required=True, help="where this node keeps its identity and checkpoints"
    )
    parser.add_argument("--ticket", help="needed for the first start on a data dir, unless --create")
    parser.add_argument("--create", metavar="NAME", help="make a new swarm of this name first")
    parser.add_argument("--steps", type=int, default=2000, help="inner steps to train for")
    try:
        train(parser.parse_args())
    except atoll.TrainingError as error:
        sys.exit(f"own_training_loop: {str(error).splitlines()[-1]}")  # the reason comes last


if __name__ == "__main__":
    main()
