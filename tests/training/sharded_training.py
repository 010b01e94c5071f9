"""`sharded_training.py FOLDER STEP`: a sharded run on two CPU processes, ended at that step."""

import sys
from pathlib import Path

import pytest

sys.path.insert(1, str(Path(__file__).parents[1]))
import test_training

with pytest.MonkeyPatch.context() as patch:
    test_training.stop_at(patch, int(sys.argv[2]))
    with pytest.raises(test_training.Stopped):
        test_training.fit(
            test_training.spec(), devices=2, strategy="fsdp", checkpoint_dir=sys.argv[1], progress=False
        )
