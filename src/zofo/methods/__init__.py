"""Methods: the order of the updates, to be read beside the paper. One file a method; its name is the file's."""
