//! Tests of the steps of all instruction sets against the portable ones, and of those by hand.

use super::*;

kernel! {
    /// Every step once, on bytes and weights made from `seed`; the results one after the other.
    fn steps / steps_of[V](seed: u32, out: &mut Vec<u32>) {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state >> 8
        };
        let mut four = [V::whole(V::zero()); 4];
        for whole in &mut four {
            let mut sums = V::zero();
            for _ in 0..3 {
                let quads = Quads(std::array::from_fn(|_| (next() >> 7) as u8));
                // The sizes that three taps of a resize can have: their sum times 255 stays below 2^31.
                let mut weight = |_| (next() % (1 << 20)) as i32 - (1 << 19);
                let weights = std::array::from_fn(|_| std::array::from_fn(&mut weight));
                let lane = (weights[0][0] & 7) as usize;
                V::dot(&mut sums, &quads, &V::pack(&weights)[lane]);
            }
            *whole = V::whole(sums);
        }
        out.extend(V::in_order(four).as_flattened().iter().copied().map(u32::from));
        out.extend(V::by_lanes(four).as_flattened().iter().copied().map(u32::from));
        let matrices = std::array::from_fn(|_| std::array::from_fn(|_| next() as u8));
        let across = V::across(&matrices);
        out.extend(across.as_flattened().iter().copied().map(u32::from));
        let parts = [across, matrices, V::across(&across), V::in_order(four)];
        V::quads(&parts).iter().for_each(|quads| out.extend(quads.0.map(u32::from)));
        let stride = 12 + (seed % 9) as usize;
        let rows: Vec<u8> = (0..15 * stride + 16).map(|_| next() as u8).collect();
        V::gather(&rows, stride).iter().for_each(|quads| out.extend(quads.0.map(u32::from)));
        let mut line = |most: u32| std::array::from_fn(|_| (next() % most) as u16);
        let (sums, ends) = (V::add(V::load(&line(1000)), V::load(&line(276))), V::load(&line(511)));
        let full = u32::from(line(1 << 16)[0]) << 5;
        let mut weighed = [0; 32];
        V::store(V::weigh(sums, ends, full, ((1 << 24) - 5 * full) / 2), &mut weighed);
        out.extend(weighed.map(u32::from));
        let (one, other) = (V::load(&line(1 << 16)), V::load(&line(4)));
        // Negative ones, too: 0 less what is below 4.
        let keys = if seed.is_multiple_of(2) { other } else { V::subtract(V::load(&line(1)), other) };
        let key = (seed % 7) as i16 - 3;
        let by = line(1 << 16)[0].cast_signed();
        for levels in [V::subtract(one, other), V::scale(one, by & i16::MAX), V::correct(one, keys, key, by)] {
            V::store(levels, &mut weighed);
            out.extend(weighed.map(u32::from));
        }
        let bytes = std::array::from_fn(|_| next() as u8);
        out.extend(V::bytes(V::add(V::widen(&bytes), V::widen(&[0; 32]))).map(u32::from));
        let rgb: [[u8; 64]; 3] = std::array::from_fn(|_| std::array::from_fn(|_| next() as u8));
        let [red, green, blue] = [V::split(&rgb[0]), V::split(&rgb[1]), V::split(&rgb[2])];
        out.extend(V::merge([0, 1].map(|i| V::luma(red[i], green[i], blue[i]))).map(u32::from));
        let factors = [key * 4681, by >> 1];
        out.extend(V::merge([0, 1].map(|i| V::products(red[i], V::subtract(green[i], blue[i]), factors))).map(u32::from));
        // Signed differences, from what is negative to what exceeds a byte.
        let differences = [0, 1].map(|i| V::subtract(V::add(red[i], red[i]), blue[i]));
        out.extend(V::merge(differences).map(u32::from));
        let upper = differences.map(|levels| V::upper(levels, by));
        out.extend(V::merge([V::add(upper[0], green[0]), V::add(upper[1], green[1])]).map(u32::from));
        V::stack([rgb[2], rgb[0], rgb[1], rgb[2]]).iter().for_each(|quads| out.extend(quads.0.map(u32::from)));
        let table = std::array::from_fn(|_| next() as u8);
        let mut bytes: Vec<u8> = (0..301).map(|_| next() as u8).collect();
        if !V::map(&mut bytes, &table) {
            bytes.iter_mut().for_each(|byte| *byte = table[usize::from(*byte)]);
        }
        out.extend(bytes.into_iter().map(u32::from));
        for _ in 0..50 {
            // All bits of a mantissa, of either sign; of sums, near 1 to 16.
            let mut numbers = || std::array::from_fn(|_| f64::from(next() as i32 - (1 << 23)) / f64::from(next() + 1));
            let weights = numbers();
            let sums = numbers().map(|sum: f64| 1.0 + 15.0 * (sum - sum.floor()));
            let shares = V::shares(weights, sums, sums.map(|sum| 1.0 / sum));
            out.extend(shares.iter().flat_map(|share| [share.to_bits() as u32, (share.to_bits() >> 32) as u32]));
        }
    }
}

#[test]
fn every_instruction_set_gives_what_the_portable_one_gives() {
    assert_eq!(Simd::available().last(), Some(&Simd::detect()));
    for seed in 0..200 {
        let mut expected = Vec::new();
        steps(Simd::PORTABLE, seed, &mut expected);
        for simd in Simd::available() {
            let mut found = Vec::new();
            steps(simd, seed, &mut found);
            assert!(found == expected, "{}, seed {seed}", simd.name());
        }
    }
}

#[test]
fn the_largest_weights_are_exact() {
    let weights = [8_355_711, -8_388_608, 1 << 22, -1];
    let samples = [[255, 3, 2, 200], [3, 1, 1, 1], [0, 255, 0, 255], [1, 1, 0, 0]];
    let exact = samples.map(|samples: [u8; 4]| {
        let products = samples.iter().zip(weights).map(|(&sample, weight)| i64::from(sample) * weight);
        let level = (products.sum::<i64>() + (1 << (WEIGHT_BITS - 1))) >> WEIGHT_BITS;
        level.clamp(0, 255) as u8
    });
    for simd in Simd::available() {
        let mut found = [0; LANES];
        extremes(simd, weights.map(|weight| weight as i32), &samples, &mut found);
        assert_eq!(found[..4], exact, "{}", simd.name());
    }
}

kernel! {
    fn extremes / extremes_of[V](weights: [i32; 4], samples: &[[u8; 4]; 4], out: &mut [u8; LANES]) {
        let mut quads = Quads([0; 4 * LANES]);
        quads.0[..16].copy_from_slice(samples.as_flattened());
        let mut sums = V::zero();
        V::dot(&mut sums, &quads, &V::pack(&weights.map(|weight| [weight; 8]))[0]);
        *out = V::in_order([V::whole(sums); 4])[0];
    }
}
