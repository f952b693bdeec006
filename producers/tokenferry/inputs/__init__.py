"""What people hand in: files, lines, rows and objects, and how they become orders."""
