"""`python -m fer2013_cnn` is the command `fer2013`."""
import os
import sys


def main():
    "Run the command line. Ctrl-C while it is being imported ends it in one line."
    try:
        from .cli import main
        main()
    except KeyboardInterrupt: sys.exit('fer2013: stopped')


if __name__ == '__main__':
    here, package = os.path.realpath(sys.path[0]), os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
    if here == os.path.realpath(os.getcwd()) != package: del sys.path[0]  # a numpy.py there is not meant
    main()
