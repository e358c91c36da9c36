"""Videos as frames with times; a frame is an image like any other."""
