"""`atoll simulate utilisation`: the bandwidths that papers print, beside the closed form."""

from __future__ import annotations

import argparse
import json
import math
from typing import TYPE_CHECKING, Any

from atoll.daemon.errors import Exit

if TYPE_CHECKING:
    from atoll.daemon.simulate.utilisation import Run, Table

NAME = 38
"""Characters of a row's name."""


def utilisation(arguments: argparse.Namespace) -> int:
    """`atoll simulate utilisation`"""
    from atoll.daemon.simulate import utilisation as u

    tables, runs = [u.streaming_table(), u.scaling_table(), u.eager_table()], u.runs()
    if arguments.json:
        fitted = {
            "volume": u.FIT_VOLUME,
            "hidden_backward": u.FIT_BACKWARD,
            "hidden_streaming": u.FIT_STREAMED,
        }
        found = [_table_json(table) for table in tables]
        print(json.dumps({"fitted": fitted, "tables": found, "runs": [_run_json(run) for run in runs]}))
        return int(Exit.OK)
    for table in tables:
        _print_table(table, u.TARGETS)
    _print_runs(runs)
    print(_counts(tables, runs))
    return int(Exit.OK)


def _print_table(table: Table, targets: tuple[float, ...]) -> None:
    print(f"{table.title}\n{table.note}")
    head = "".join(f"{f'{100 * target:.0f} %':>8}" for target in targets)
    print(f"{'compute utilisation':<{NAME}}{head}")
    for row in table.rows:
        print(f"{row.name:<{NAME}}{''.join(f'{_gbps(gbps):>8}' for gbps in row.ours)}")
        print(f"{'  paper':<{NAME}}{''.join(f'{gbps:>8g}' for gbps in row.paper)}")
        print(f"{'  steps of difference':<{NAME}}{''.join(f'{steps:>+8d}' for steps in row.steps)}")
    print()


def _print_runs(runs: tuple[Run, ...]) -> None:
    print("Runs over the internet: utilisation = computing / (computing + synchronisation)")
    print(f"{'':<62}{'ours':>8}{'paper':>8}{'points':>8}")
    for run in runs:
        print(f"{run.name:<62}{100 * run.ours:>6.1f} %{100 * run.paper:>6.1f} %{run.points:>+8.1f}")
    print()


def _counts(tables: list[Table], runs: tuple[Run, ...]) -> str:
    streaming, scaling, eager = tables
    near = sum(abs(run.points) <= 1 for run in runs)
    return (
        f"Streaming DiLoCo: {streaming.within(0)} of {streaming.cells} cells on the paper's grid point, "
        f"{streaming.within(1)} within one step. Scaling laws: {scaling.within(0)} of {scaling.cells} on it, "
        f"{scaling.within(1)} within one, {scaling.within(2)} within two. Eager, a bound: {eager.within(0)} "
        f"of {eager.cells} on it. Runs: {near} of {len(runs)} within one point."
    )


def _gbps(value: float) -> str:
    return "beyond" if math.isinf(value) else f"{value:.1f}"


def _table_json(table: Table) -> dict[str, Any]:
    rows = [
        {
            "name": row.name,
            "ours_gbps": [None if math.isinf(gbps) else round(gbps, 4) for gbps in row.ours],
            "paper_gbps": row.paper,
            "steps": row.steps,
        }
        for row in table.rows
    ]
    within = {str(steps): table.within(steps) for steps in (0, 1, 2)}
    return {"title": table.title, "note": table.note, "cells": table.cells, "within": within, "rows": rows}


def _run_json(run: Run) -> dict[str, Any]:
    return {"name": run.name, "ours": round(run.ours, 4), "paper": run.paper, "points": round(run.points, 2)}
