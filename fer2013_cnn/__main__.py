"""`python -m fer2013_cnn` is the command `fer2013`."""
import os
import signal
import sys


def interrupt(number, frame): raise KeyboardInterrupt


def main():
    "Run the command line. SIGTERM and SIGHUP end it as Ctrl-C does, also while it is being imported."
    try:
        for name in ('SIGTERM', 'SIGHUP'):  # SIGHUP: the terminal was closed; it is ignored below `nohup`
            number = getattr(signal, name, None)
            if number and signal.getsignal(number) == signal.SIG_DFL: signal.signal(number, interrupt)
        from .cli import main
        main()
    except KeyboardInterrupt: sys.exit('fer2013: stopped')


if __name__ == '__main__':
    here, package = os.path.realpath(sys.path[0]), os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
    if here == os.path.realpath(os.getcwd()) != package: del sys.path[0]  # a numpy.py there is not meant
    main()
