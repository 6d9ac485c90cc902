fn main() {
    println!("{} {}: {} primes", env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION"), lib::primes(1000));
}
