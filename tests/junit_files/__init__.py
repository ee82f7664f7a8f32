"""JUnit files of real runners of several ecosystems, and the script that makes them anew."""
