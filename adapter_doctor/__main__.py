"""`python -m adapter_doctor`: the command line."""

from adapter_doctor.cli import main

if __name__ == "__main__":
    main()
