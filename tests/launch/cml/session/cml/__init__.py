"""What a session of Cloudera's platform has on its Python path, for tests."""
