pub fn primes(n: usize) -> usize { (2..n).filter(|i| (2..*i).all(|j| i % j != 0)).count() }
