"""One module for each library that is compared; importing it imports the library."""
