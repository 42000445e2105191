"""The instruction set: the tensor language, instructions, machines and programs."""
