"""Masks: which weights of theta a zeroth-order direction moves. One file a mask; its name is the file's."""
