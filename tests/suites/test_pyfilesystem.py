"""PyFilesystem2's own suite, with our file API under it."""

from __future__ import annotations

import contextlib
import tempfile
import unittest
import warnings
from pathlib import Path
from typing import ClassVar

import pytest

from tests.suites.carriers import CARRIERS
from tests.suites.portal import BlockingFiles, blocking_files
from tests.suites.pyfilesystem import MirroredFS

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from fs.test import FSTestCases


class Suite(FSTestCases):
    """The suite, on the carrier named. One volume for all tests; each finds it empty."""

    carrier: ClassVar[str]
    ended: ClassVar[contextlib.ExitStack]
    files: ClassVar[BlockingFiles]

    @classmethod
    def setUpClass(cls) -> None:
        cls.ended = contextlib.ExitStack()
        root = Path(cls.ended.enter_context(tempfile.TemporaryDirectory()))
        cls.files = cls.ended.enter_context(blocking_files(lambda: CARRIERS[cls.carrier](root)))

    @classmethod
    def tearDownClass(cls) -> None:
        cls.ended.close()

    def make_fs(self) -> MirroredFS:
        return MirroredFS(self.files)

    def destroy_fs(self, fs: MirroredFS) -> None:
        super().destroy_fs(fs)
        with MirroredFS(self.files) as again:
            again.removetree("/")


class TestInMemory(Suite, unittest.TestCase):
    carrier = "in_memory"


class TestInADirectory(Suite, unittest.TestCase):
    carrier = "in_a_directory"


class TestByTheKernel(Suite, unittest.TestCase):
    carrier = "by_the_kernel"


@pytest.mark.slow
class TestMirrored(Suite, unittest.TestCase):
    carrier = "mirrored"
