"""Photographs in class folders: where they lie, how they are decoded, packed and read ahead."""
