"""What a run will cost before it starts: counted work and measured or published rates in, hours and money out."""
