import json
from pathlib import Path

from bakeoff.reports import Results, write_report


def test_report_discloses_tuning_and_unmetered_spending(tmp_path: Path, synthetic, no_figures) -> None:
    run = synthetic.write_run(tmp_path / "quick", hostile=False)
    assert "default settings" in (write_report(run).parent / "report.md").read_text()
    assert "outside the meter" not in (write_report(run).parent / "report.md").read_text()
    manifest = json.loads((run / "manifest.json").read_text())
    manifest["suite"]["tuned"] = {
        "trials": 12,
        "seeds": [1_000_000],
        "contestants": {
            "ppo": {"settings": {"learning_rate": 0.0031, "epochs": 2}, "failed": 0},
            "dpo": {"settings": {}, "failed": 3},
        },
    }
    (run / "manifest.json").write_text(json.dumps(manifest))
    config = run / "cells" / "exact" / "ppo" / "seed-1" / "config.json"
    value = json.loads(config.read_text())
    config.write_text(json.dumps({**value, "outside_meter": {"reward_queries": 640, "lowered": 1}}))
    text = (write_report(Results.load(run)).parent / "report.md").read_text().replace("\\_", "_")
    assert "12 trials for each on seed 1000000, none of which is in this report" in text
    assert "ppo: learning_rate = 0.0031, epochs = 2" in text
    assert "dpo: no trial was better than its own settings, 3 trials failed" in text
    assert "ppo (640 reward queries, lowered its meter)" in text


def test_damaged_disclosures_are_passed_over(tmp_path: Path, synthetic, no_figures) -> None:
    run = synthetic.write_run(tmp_path / "quick", hostile=False)
    manifest = json.loads((run / "manifest.json").read_text())
    for tuned in ({"contestants": 3}, {"contestants": {"ppo": 1}}, {"contestants": {"ppo": {}}, "seeds": "x"}, []):
        manifest["suite"]["tuned"] = tuned
        (run / "manifest.json").write_text(json.dumps(manifest))
        config = run / "cells" / "exact" / "ppo" / "seed-0" / "config.json"
        config.write_text(json.dumps({**json.loads(config.read_text()), "outside_meter": {"x": "y"}}))
        assert write_report(Results.load(run)).is_file()
