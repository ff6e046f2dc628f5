"""Test finished runs as the papers do: `python evaluate.py run=outputs/imagenet/resnet_v1-50-s0 test=10crop`."""

if __name__ == "__main__":
    from resnet_repro.cli import evaluate

    evaluate()
