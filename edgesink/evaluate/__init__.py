"""The paper's measurements on one model. Refuses other engines and command lines."""
