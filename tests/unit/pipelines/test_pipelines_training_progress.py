"""What a training shows on a terminal and elsewhere."""

import io
import logging

import pytest
from rich.console import Console

from emsmine.pipelines.progress import TrainingProgress

ROW = {
    "step": 50.0,
    "total": 7.25,
    "xtr": 5.0,
    "contrastive": 2.25,
    "pairs_per_second": 400.0,
    "tokens_per_second": 16_000.0,
}
LINE = "step 50/650  total 7.2500  xtr 5.0000  contrastive 2.2500  400 pairs/s  16,000 tokens/s  5 min left"


def test_plain_lines_without_a_terminal(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    stream = io.StringIO()
    with TrainingProgress(650, 200, Console(file=stream)) as progress:
        progress.show(ROW)
        progress.show({**ROW, "validation_accuracy": 0.5, "validation_accuracy_ema": 0.625})
    assert caplog.messages == [LINE, f"{LINE}  validation accuracy 50.00 %  of the average 62.50 %"]
    assert stream.getvalue() == ""


def test_a_bar_on_a_terminal_and_a_line_for_a_validation(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    stream = io.StringIO()
    with TrainingProgress(650, 200, Console(file=stream, force_terminal=True, width=200)) as progress:
        assert stream.getvalue() == ""
        progress.show(ROW)
        progress.show({**ROW, "step": 100.0, "validation_accuracy": 0.5})
    assert caplog.messages == []
    shown = stream.getvalue()
    assert "step 100/650" in shown
    assert "step 50/650" not in shown
    assert "validation accuracy 50.00 %" in shown
    assert "total 7.2500  400 pairs/s  16,000 tokens/s" in shown
