//! Composes the machines into a family and a city; decides nothing itself.
