"""InfinISA: a simulator of AI accelerators whose instruction set has no end."""
