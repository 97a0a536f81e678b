"""Plastic networks in other libraries: each file is for one of them, and imported by who uses that."""
