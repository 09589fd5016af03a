"""What is kept on disks: the implementations behind the seams of the sans-IO layers."""
