"""`python -m emsmine` and the `emsmine` command."""


def main() -> None:
    """Run the command line and exit with its code."""
    # Imported here: `import emsmine` must stay cheap and load nothing heavy.
    from emsmine.pipelines.cli.main import run_cli

    raise SystemExit(run_cli())


if __name__ == "__main__":
    main()
