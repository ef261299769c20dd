"""The stores of a home, by name: what it remembers in."""

from __future__ import annotations

from typing import Literal, get_args

Store = Literal["control", "lake", "key", "models", "topics", "dagster"]
"""Control database, lake, key and files of the models, topics, Dagster's storage."""

STORES: tuple[Store, ...] = get_args(Store)
