"""`python -m ray_synth` in, what `ray-synth` does out: for an environment whose scripts are not on the path."""

from ray_synth.cli import main

if __name__ == "__main__":
    main()
