//! Git mirrors: fetching, and reading files from the object database.
