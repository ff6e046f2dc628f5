"""Tables, figures and the papers' claims from all finished runs: `python report.py`."""

if __name__ == "__main__":
    from resnet_repro.cli import report

    report()
