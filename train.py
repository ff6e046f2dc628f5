"""Train plain and residual networks: `python train.py -m depth=20,56,110 arch=plain,resnet_v2`."""

if __name__ == "__main__":
    from resnet_repro.cli import train

    train()
