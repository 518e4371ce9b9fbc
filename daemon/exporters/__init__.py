"""Figures of a node for other programs to draw: TensorBoard, Weights & Biases. Optional, and each an extra.

    samples.py      what is told of a round, of a validation and of a moment; pure
    exporter.py     one sink on a thread of its own, behind a bounded queue
    tensorboard.py  a sink that writes TensorBoard's event files
    wandb.py        a sink that writes W&B's offline runs; nothing is contacted
    exports.py      which of them the settings ask for, and what the node tells them

A sink blocks as it likes: it never holds up the loop. What it can't write is lost to it and nothing else;
that is one event. Its library is imported on its thread, and only where it was asked for.
"""
