package meridian.compat; class Main { }
