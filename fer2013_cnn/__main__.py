"""`python -m fer2013_cnn` is the command `fer2013`."""
from .cli import main

if __name__ == '__main__': main()
