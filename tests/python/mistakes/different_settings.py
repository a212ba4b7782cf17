"""A login script sets a variable on one rank only."""

import os

import tensors

import hora

PRINTED = ["HORA_BUCKET_BYTES=4 MiB.*this setting must be equal on all ranks"]
EXPLAINED = ["no flight records"]  # they never met

if os.environ["HORA_RANK"] == "1":
    os.environ["HORA_BUCKET_BYTES"] = "4 MiB"
hora.init()
tensors.run("grad")
