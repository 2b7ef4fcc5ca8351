"""What the package costs on a machine: one image, a start, growth with slices and files."""
