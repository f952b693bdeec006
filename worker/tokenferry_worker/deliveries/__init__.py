"""One delivery, from the body of its message to the messages it leaves behind."""
