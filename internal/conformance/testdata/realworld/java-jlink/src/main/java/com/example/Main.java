package com.example;

import java.util.stream.IntStream;

public class Main {
    public static void main(String[] args) {
        System.out.println("sum " + IntStream.rangeClosed(1, 100).sum() + " on Java " + Runtime.version().feature()
            + " in " + System.getProperty("java.home"));
    }
}
