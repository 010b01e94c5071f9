"""What a model reads: text (`corpus`), synthetic recall (`recall`) and their mixture (`module`)."""
