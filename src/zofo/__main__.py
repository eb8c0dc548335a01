"""`python -m zofo`: the command line, for launchers that start a module (torchrun, accelerate launch)."""

from zofo.cli.main import main

if __name__ == "__main__":
    main()
